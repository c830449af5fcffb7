"""Training as people write it with Lightning, accelerate, DDP and FSDP2; averages, checkpoint wrappers, sharing, compiling."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import convnext
from convnext import models
from convnext.models.block import Block
from convnext.models.convnext import ConvNeXt
from interop.test_things_people_do import distance, images, make

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS, BATCH = 3, 8


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of all steps."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(STEPS * BATCH, 3, 32, 32, generator=generator), torch.arange(STEPS * BATCH) % 5


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*rows()), batch_size=BATCH)


def trained_plainly() -> nn.Module:
    """Three steps of SGD, which every tool has to repeat."""
    model = make("classifier").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def apart(one: dict, other: dict) -> float:
    """The largest relative distance of two state dicts."""
    assert one.keys() == other.keys()
    return max(distance(one[name], other[name]) for name in one)


# -- trainers


def test_lightning_trains_the_same_and_its_checkpoint_opens(tmp_path):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make("classifier")

        def training_step(self, batch, index):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.model.parameters(), lr=0.02)

    module = Module().train()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, gradient_clip_val=1.0,
        enable_model_summary=True, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader())
    expected = trained_plainly()
    assert apart(module.model.state_dict(), expected.state_dict()) < 1e-5
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    again = ConvNeXt((1, 1, 1, 1), (16, 24, 32, 40), num_classes=5)
    convnext.load_weights(again, tmp_path / "last.ckpt")
    assert apart(again.state_dict(), module.model.state_dict()) == 0


def test_accelerate_prepares_clips_saves_and_loads(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = make("classifier").train()
    model, optimizer, data = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.02), loader())
    for x, y in data:
        optimizer.zero_grad()
        accelerator.backward(F.cross_entropy(model(x), y))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    expected = trained_plainly().state_dict()
    assert apart(accelerator.unwrap_model(model).state_dict(), expected) < 1e-5
    accelerator.save_state(tmp_path / "state")
    with torch.no_grad():
        next(model.parameters()).zero_()
    accelerator.load_state(tmp_path / "state")
    assert apart(accelerator.unwrap_model(model).state_dict(), expected) < 1e-5
    accelerator.save_model(model, tmp_path / "saved")
    again = ConvNeXt((1, 1, 1, 1), (16, 24, 32, 40), num_classes=5)
    convnext.load_weights(again, tmp_path / "saved" / "model.safetensors")
    assert apart(again.state_dict(), expected) < 1e-5


# -- two processes


def one_of_two(rank: int, how: str, folder: str) -> None:
    """Half of each batch; the state after all steps is written by the first process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = make("classifier").train()
    if how == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for module in model.modules():
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(model(x[rank::2]), y[rank::2]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        outputs = model(images())
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        torch.save({"state": state, "outputs": outputs}, f"{folder}/state.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(how, tmp_path):
    mp.start_processes(one_of_two, (how, str(tmp_path)), nprocs=2, start_method="spawn")
    found, expected = torch.load(tmp_path / "state.pth"), trained_plainly()
    assert apart(found["state"], expected.state_dict()) < 1e-4
    with torch.no_grad():
        assert distance(found["outputs"], expected.eval()(images())) < 1e-4


def answer(model: nn.Module, queue) -> None:
    with torch.no_grad():
        queue.put(model(images()).numpy())
        next(model.parameters()).add_(1)


def test_a_model_is_shared_with_another_process():
    model = make("classifier").share_memory()
    before, expected = next(model.parameters()).detach().clone(), model(images()).detach()
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=answer, args=(model, queue))
    process.start()
    found = torch.from_numpy(queue.get(timeout=120))
    process.join()
    assert distance(found, expected) < 1e-5
    assert torch.equal(next(model.parameters()), before + 1)


# -- averages, checkpoint wrappers, the meta device


def test_averages_of_weights_and_their_batch_statistics():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

    model = models.build("roadmap_resnet50_resnet", num_classes=5, width_mult=0.125, depth_mult=0.3).train()
    averages = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    first = next(model.parameters()).detach().clone()
    for average in averages:
        average.update_parameters(model)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    for average in averages:
        average.update_parameters(model)
        assert torch.allclose(next(average.parameters()), first + 0.5)
    update_bn((x for x, _ in loader()), averages[0])
    norms = [m for m in averages[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_batches_tracked.item() for m in norms] == [STEPS] * len(norms)
    stem = [averages[0].module.stem[0](x) for x, _ in loader()]
    mean = torch.stack([y.mean((0, 2, 3)) for y in stem]).mean(0)
    assert torch.allclose(norms[0].running_mean, mean, atol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_wrappers_around_blocks(reentrant):
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as wrappers

    model, x = make("classifier").train(), images()
    wrapped = copy.deepcopy(model)
    kind = wrappers.CheckpointImpl.REENTRANT if reentrant else wrappers.CheckpointImpl.NO_REENTRANT
    wrappers.apply_activation_checkpointing(
        wrapped,
        checkpoint_wrapper_fn=lambda module: wrappers.checkpoint_wrapper(module, checkpoint_impl=kind),
        check_fn=lambda module: isinstance(module, Block),
    )
    gradients = []
    for network in (model, wrapped):
        y = network(x)
        y.square().sum().backward()
        gradients.append([y, *(p.grad for p in network.parameters())])
    assert max(distance(a, b) for a, b in zip(*gradients, strict=True)) < 1e-5
    with torch.no_grad():
        assert distance(wrapped.eval()(x), model.eval()(x)) < 1e-5
        assert distance(wrapped.deploy("fp32")(x), model(x)) < 1e-5


def test_initialisation_later():
    whole, x = make("classifier"), images()
    with torch.device("meta"):
        shells = [ConvNeXt((1, 1, 1, 1), (16, 24, 32, 40), num_classes=5).eval() for _ in range(2)]
    shells[0].load_state_dict(whole.state_dict(), assign=True)
    shells[1].to_empty(device="cpu").load_state_dict(whole.state_dict())
    with torch.no_grad():
        for shell in shells:
            assert distance(shell(x), whole(x)) < 1e-6
            assert distance(shell.deploy("fp32")(x), whole(x)) < 1e-5


# -- the compiler; torch.export and AOTInductor are in tests/export


@pytest.mark.parametrize("kind", ["classifier", "isotropic", "roadmap"])
def test_inductor_on_a_cpu(kind):
    model, x = make(kind), images()
    compiled = torch.compile(copy.deepcopy(model))
    with torch.no_grad():
        assert distance(compiled(x), model(x)) < 1e-4
    found, expected = compiled(x), model(x)
    assert distance(found, expected) < 1e-4
    found.square().sum().backward()
    expected.square().sum().backward()
    pairs = zip(compiled.parameters(), model.parameters(), strict=True)
    assert max(distance(a.grad, b.grad) for a, b in pairs) < 1e-3
