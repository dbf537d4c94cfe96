"""A command-line start must not pay for what it does not use."""

import subprocess
import sys

import model


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, model; model.ModelError; "
        "heavy = {'jax', 'flax', 'transformers', 'numpy', 'PIL', 'sqlite3', 'safetensors'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in model.__all__:
        assert getattr(model, name).__name__ == name
    assert set(model.__all__) <= set(dir(model))


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(model, "NoSuchName")
