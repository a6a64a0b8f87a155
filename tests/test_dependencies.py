import sys

import pytest

from ser_cli.dependencies import require_working_torch
from ser_cli.errors import DependencyError


def test_a_set_that_works_is_let_through():
    assert require_working_torch() is None


def test_a_torchaudio_that_cannot_be_imported_is_told_with_the_versions_that_fit(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torchaudio":
                raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DependencyError) as error:
        require_working_torch()
    lines = str(error.value).splitlines()
    assert lines[0] == "torch and torchaudio do not work together: libcudart.so.13: cannot open shared object file"
    assert "torchaudio 2.11" in lines[1]
    assert 'pip install "torch>=2.11,<2.15' in lines[-1]
