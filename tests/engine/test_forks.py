"""Forks of the tests' process can train, which the tests of kills and of terminals rest on."""

import os

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def test_a_fork_can_train_after_a_fake_device():
    with FakeTensorMode():
        torch.empty(2, device="cuda")
    torch.ones(1, requires_grad=True).sum().backward()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.ones(1, requires_grad=True).sum().backward()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
