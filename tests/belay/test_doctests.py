"""The examples in the library's docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import belay

MODULES = ["belay", *(f"belay.{module.name}" for module in pkgutil.iter_modules(belay.__path__))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_come_out_as_shown(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) >= 8
