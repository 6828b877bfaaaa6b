"""Docstrings say what signatures say: every parameter by its name, results, an example."""

import inspect
import re

import pytest

import smoothl1 as sl

# What a module without state has, so that code written against modules runs.
MODULE_INTERFACE = {
    "clone", "devices", "eval", "fork", "load_state_dict", "map", "no_grad", "num_params",
    "state_dict", "to_device", "train", "valid", "visit",
}  # fmt: skip
ORDER = ["Parameters", "Attributes", "Returns", "Raises", "See Also", "Notes", "References",
         "Examples"]  # fmt: skip


def public_objects():
    """Functions and classes that users import, by name."""
    found = {f"smoothl1.{name}": getattr(sl, name) for name in sl.__all__}
    found |= {f"optimize.{name}": getattr(sl.optimize, name) for name in sl.optimize.__all__}
    return {name: thing for name, thing in found.items() if not inspect.ismodule(thing)}


def public_methods():
    """Methods and properties of these classes, by name."""
    return {
        f"{name}.{method}": getattr(kind, method)
        for name, kind in public_objects().items()
        if inspect.isclass(kind) and kind is not sl.Reduction
        for method in dir(kind)
        if not method.startswith("_") or method == "__call__"
        if callable(getattr(kind, method)) or isinstance(getattr(kind, method), property)
    }


def sections(thing):
    """Summary and sections of a docstring."""
    text = inspect.getdoc(thing)
    assert text
    head, *rest = re.split(r"^([A-Z][A-Za-z ]+)\n-+$", text, flags=re.MULTILINE)
    return head.split("\n\n")[0], dict(zip(rest[::2], rest[1::2], strict=True))


def documented(section):
    """Names in a section of parameters, in their order."""
    listed = (line.partition(" : ")[0] for line in section.splitlines() if re.match(r"\S", line))
    return [name.strip("*") for names in listed for name in names.split(", ")]


def parameters(thing):
    """Names in a signature, in their order."""
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def check(thing):
    """Check what holds for everything; return the sections."""
    summary, found = sections(thing)
    assert summary.endswith(".")
    assert len(re.findall(r"\.(\s|$)", summary)) == 1, summary  # one sentence
    assert list(found) == [section for section in ORDER if section in found]
    if "Parameters" in found:
        assert documented(found["Parameters"]) == parameters(thing)
    return found


def returns_something(thing):
    return inspect.signature(thing).return_annotation not in (None, "None")


@pytest.mark.parametrize("name", public_objects())
def test_functions_and_classes(name):
    thing = public_objects()[name]
    found = check(thing)
    assert ">>>" in found["Examples"]
    if thing is sl.Reduction:
        assert documented(found["Attributes"]) == list(sl.Reduction.__members__)
        return
    assert ("Parameters" in found) == bool(parameters(thing))
    if inspect.isfunction(thing):
        assert ("Returns" in found) == returns_something(thing)
    if thing is not sl.get_num_threads:
        assert "Raises" in found


@pytest.mark.parametrize("name", public_methods())
def test_methods(name):
    method = public_methods()[name]
    found = check(method)
    short = name.rpartition(".")[2]
    if isinstance(method, property) or short in MODULE_INTERFACE or name.endswith("Loss.__call__"):
        return
    assert ("Parameters" in found) == bool(parameters(method))
    assert ("Returns" in found) == returns_something(method)


def test_the_module_of_pytorch():
    pytest.importorskip("torch", reason="PyTorch is optional")
    from smoothl1.torch import SmoothL1Loss

    assert ">>>" in check(SmoothL1Loss)["Examples"]
    for name in ("extra_repr", "forward"):
        method = getattr(SmoothL1Loss, name)
        found = check(method)
        assert "Returns" in found
        assert ("Parameters" in found) == bool(parameters(method))


@pytest.mark.parametrize("module", [sl, sl.optimize])
def test_modules_name_what_they_hold(module):
    for name in module.__all__:
        assert re.search(rf"\b{name}\b", module.__doc__), name
