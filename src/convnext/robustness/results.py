"""robustness.json: what has been evaluated, so that nothing is evaluated twice, and what follows from it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from convnext.errors import ConvNextError
from convnext.files import replace_text
from convnext.robustness.summary import summarise
from convnext.robustness.units import Record

FORMAT = 1


@dataclass
class Results:
    """The content of a results file, by model; `path` is written anew as a whole by `save`."""

    path: Path
    identities: dict[str, dict] = field(default_factory=dict)
    records: dict[str, dict[str, Record]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "Results":
        """Read `path`, or begin with nothing where there is no such file.

        Raises:
            ConvNextError: it is damaged or of another version.
        """
        if not path.exists():
            return cls(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"it has format {content['format']}, and this version reads format {FORMAT}")
            identities = {name: model["identity"] for name, model in content["models"].items()}
            records = {
                name: {record.key: record for record in (Record(**values) for values in model["units"])}
                for name, model in content["models"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConvNextError(
                f"The results in {path} cannot be read ({error}). Move the file away, or give another --out."
            ) from error
        return cls(path, identities, records)

    def claim(self, model: str, identity: dict) -> dict[str, Record]:
        """The finished units of a model, by key; `identity` is what they must have been measured with.

        Raises:
            ConvNextError: the file's results of this name are of other weights, preprocessing or precision.
        """
        identity = json.loads(json.dumps(identity))  # tuples become lists, as they will read back
        there = self.identities.setdefault(model, identity)
        if there != identity:
            raise ConvNextError(
                f"{self.path} holds results of another {model}: {_difference(there, identity)}. Give another --out, or "
                "move the file away."
            )
        return self.records.setdefault(model, {})

    def check_data(self, record: Record, data: dict) -> None:
        """
        Raises:
            ConvNextError: a finished unit was measured on other data than is there now.
        """
        if record.data != data:
            raise ConvNextError(
                f"{self.path} holds results of {record.key} on other data: {_difference(record.data, data)}. Give "
                "another --out, or move the file away."
            )

    def summary(self, model: str) -> dict:
        return summarise(self.records[model].values())

    def save(self) -> None:
        """Write the file; a reader or a kill never meets half of it."""
        models = {
            name: {
                "identity": identity,
                "summary": self.summary(name),
                "units": [asdict(record) for record in self.records[name].values()],
            }
            for name, identity in self.identities.items()
        }
        replace_text(self.path, json.dumps({"format": FORMAT, "models": models}, indent=1) + "\n")


def _difference(there: dict, here: dict) -> str:
    rows = (
        f"{key} {there.get(key)!r} there, {here.get(key)!r} now"
        for key in dict.fromkeys([*there, *here])
        if there.get(key) != here.get(key)
    )
    return "; ".join(rows)
