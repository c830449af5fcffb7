"""docs/fidelity.md: each row has a proof that exists, and the measured numbers are those of the results."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][1:]


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def row(item: str) -> str:
    (found,) = [" | ".join(cells) for cells in ROWS if cells[0] == item]
    return found


def test_every_row_has_all_its_cells_and_a_proof_that_is_there():
    assert len(ROWS) > 20
    for cells in ROWS:
        assert len(cells) == 6, cells
        proofs = re.findall(r"`([\w/]+\.(?:py|md))`", cells[5])
        assert proofs, cells
        assert all((ROOT / proof).exists() for proof in proofs), proofs


def test_the_numbers_are_the_measured_ones():
    measured = result("fidelity")
    masks = measured["masks"]
    told = row("masks in training")
    assert (
        f"IoU {masks['mean_iou']} between the two rules over {masks['objects']} objects (least {masks['least_iou']})"
        in told
    )
    assert f"{masks['percent_of_cells']} % of the cells" in told
    gains = [gain for row in measured["jpeg_gain_db"].values() for gain in row]
    assert f"{min(gains)} to {max(gains)} dB" in row("corrupted images, storage")
    for name, pair in result("ablations")["rows"].items():
        (mine, *_), (beside, *_) = (
            [v for k, v in sorted(each.items()) if k.startswith("mean")] for each in pair.values()
        )
        assert f"{mine:.2f} against" in PAGE, name
        assert f"{beside:.2f}" in PAGE, name
    frost = result("frost")["rows"]
    ends = [(frost["ours"]["ssim"][i], frost["original"]["ssim"][i]) for i in (0, -1)]
    assert all(f"{ours:.4f} against {theirs:.4f}" in row("frost") for ours, theirs in ends)
