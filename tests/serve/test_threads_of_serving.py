"""Only the thread of a model has a team of OpenMP's threads: two teams make both slow."""

import threading

import pytest
import torch

from convnext.serve.threads import image_threads, in_passing, model_thread


@pytest.fixture
def three_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def cores() -> int:
    """Threads of the calling thread's team, asked after work that PyTorch shares among all."""
    torch.ones(10**6).add(1)
    return torch.get_num_threads()


def test_images_have_one_core_each_and_a_model_all(three_cores):
    with image_threads() as images, model_thread("m") as model:
        for _ in range(2):
            assert images.submit(cores).result() == 1
            assert model.submit(cores).result() == 3
    assert torch.get_num_threads() == 3


def test_a_thread_in_passing_ends_and_hands_its_exception_over(three_cores):
    assert in_passing(cores) == 3
    assert not in_passing(threading.current_thread).is_alive()
    with pytest.raises(ValueError, match="no"):
        in_passing(int, "no")
