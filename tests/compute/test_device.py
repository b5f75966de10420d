import pytest
import torch

from ltcli.compute.device import autocast, resolve_device, resolve_precision, seed_layers
from ltcli.core.errors import ResourceError

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "xpu", "", "cpu:", "CPU"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ResourceError) as caught:
        resolve_device(name)
    rule = f"--device: device must be auto, cpu, cuda, cuda:N or mps, got {name}"
    assert str(caught.value) == rule
    assert caught.value.exit_code == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_an_absent_gpu_is_refused_and_nothing_falls_back_silently(name):
    with pytest.raises(ResourceError) as caught:
        resolve_device(name)
    assert str(caught.value) == f"--device: device {name} is not available"
    assert caught.value.hint == "try --device auto"


def test_an_unknown_device_is_one_line_on_the_command_line(ltcli, copy):
    done = ltcli("evaluate", "--device", "gpu", "--force", "-d", copy)
    assert done.code == 6
    assert done.lines == ["error: --device: device must be auto, cpu, cuda, cuda:N or mps, got gpu"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_absent_gpu_is_one_line_on_the_command_line(ltcli, copy):
    before = (copy / "dump-features.safetensors").read_bytes()
    done = ltcli("dump-features", "--device", "cuda:1", "--force", "-d", copy)
    assert done.code == 6
    assert done.lines == [
        "error: --device: device cuda:1 is not available",
        "hint: try --device auto",
    ]
    assert (copy / "dump-features.safetensors").read_bytes() == before


@pytest.fixture
def four_gpus(monkeypatch):
    """A machine that says it has four GPUs; the numbers of those that were made current."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    # What it was comes back in the end.
    modes = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    before = [mode.fp32_precision for mode in modes]
    yield current
    for mode, value in zip(modes, before, strict=True):
        mode.fp32_precision = value


def test_auto_is_a_device_that_is_there():
    device = resolve_device("auto")
    torch.zeros(1, device=device)
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_on_a_machine_has_a_gpu_of_its_own(four_gpus, monkeypatch, name):
    assert resolve_device(name) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device(name) == torch.device("cuda", 3)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == CPU
    # What asks for no GPU means this one.
    assert four_gpus == [0, 3, 1]


def test_several_processes_do_not_share_the_gpu_of_a_mac(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resolve_device("auto") == CPU
    with pytest.raises(ResourceError, match="cuda or cpu for 2 processes on a machine, got mps"):
        resolve_device("mps")


def test_float32_on_a_gpu_is_float32_in_convolutions_too(four_gpus):
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    resolve_device("cuda")
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_tf32_is_that_of_one_run(four_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    modes = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    assert resolve_precision("tf32", resolve_device("cuda")) == torch.float32
    assert [mode.fp32_precision for mode in modes] == ["tf32", "tf32"]
    assert resolve_precision("fp32", resolve_device("cuda")) == torch.float32
    assert [mode.fp32_precision for mode in modes] == ["ieee", "ieee"]


def test_a_device_without_tf32_refuses_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    for name in ("cpu", "mps", "cuda:0"):
        with pytest.raises(ResourceError, match=f"on {name}, which has no TF32, got tf32"):
            resolve_precision("tf32", torch.device(name))


def test_tf32_on_a_cpu_is_one_line_on_the_command_line(ltcli, copy):
    options = ("--device", "cpu", "--precision", "tf32")
    done = ltcli("evaluate", *options, "--force", "-d", copy)
    rule = "precision must be auto, fp32 or bf16 on cpu, which has no TF32, got tf32"
    assert done.code == 6
    assert done.lines == [f"error: --precision: {rule}", "hint: try --precision fp32"]


def test_several_processes_on_one_gpu_are_refused(ltcli, copy, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    done = ltcli("evaluate", "--device", "cuda:0", "--force", "-d", copy)
    rule = "device must be auto, cuda or cpu for 2 processes on a machine, got cuda:0"
    assert done.code == 6
    assert done.lines == [f"error: --device: {rule}", "hint: each has a GPU of its own"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_auto_prefers_the_gpu_and_an_index_beyond_the_last_is_refused():
    assert resolve_device("auto").type == "cuda"
    count = torch.cuda.device_count()
    assert resolve_device(f"cuda:{count - 1}").index == count - 1
    with pytest.raises(ResourceError):
        resolve_device(f"cuda:{count}")


def test_a_named_precision_is_taken_as_it_is():
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)


def test_autocast_only_acts_in_bfloat16():
    a = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(CPU, dtype):
            assert (a @ a).dtype == dtype


def test_layers_draw_anew_in_each_step_and_process_and_the_same_again(monkeypatch):
    def drawn(*position, rank=None):
        if rank is not None:
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "3")
        with torch.random.fork_rng():
            seed_layers(CPU, *position)
            return tuple(torch.rand(4).tolist())

    first = drawn(0, 0, 0)
    others = [drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 1)]
    ranks = [drawn(0, 0, 0, rank=rank) for rank in (0, 1, 2)]
    assert ranks[0] == first
    assert len({*others, *ranks}) == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_products_in_tf32_have_a_mantissa_of_ten_bits():
    device = resolve_device("cuda")
    a = torch.randn(256, 256, dtype=torch.float64)
    errors = {}
    for name in ("fp32", "tf32"):
        assert resolve_precision(name, device) == torch.float32
        product = a.float().to(device) @ a.float().to(device)
        errors[name] = ((product.cpu().double() - a @ a).norm() / (a @ a).norm()).item()
    resolve_device("cuda")  # Without TF32 from here on.
    assert errors["fp32"] < 1e-5 < 1e-4 < errors["tf32"] < 1e-2
