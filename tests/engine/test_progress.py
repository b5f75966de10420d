"""The progress bar on a terminal."""

import sys

import pytest
import torch

from ltcli.cli.commands import log_to_stderr
from ltcli.core.context import Context
from ltcli.engine.fit import Epoch, report


@pytest.mark.parametrize(
    ("first", "verbosity", "drawn"), [(True, 0, True), (True, -1, False), (False, 0, False)]
)
def test_a_bar_is_drawn_where_the_log_speaks(capsys, monkeypatch, first, verbosity, drawn):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log_to_stderr(verbosity, first=first)
    context = Context("finetune", "cpu", None, lambda _record: None)
    epochs = [Epoch(number, 0.5, 0.1, 1.0, 100.0) for number in range(3)]
    passed = list(report(epochs, 3, context, torch.device("cpu"), torch.float32))
    assert passed == epochs
    said = capsys.readouterr().err
    assert ("3/3" in said) == drawn
    assert "epoch 3/3" not in said
