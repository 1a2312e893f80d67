"""The package's names, and what is imported to give them."""

import importlib.resources
import subprocess
import sys
import textwrap

import pytest

import grouped_conv_jax

LAZY = ("linen", "matlab", "nnx", "optim")


def run_python(code):
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("name", grouped_conv_jax.__all__)
def test_every_public_name_is_there(name):
    assert hasattr(grouped_conv_jax, name)
    assert name in dir(grouped_conv_jax)


def test_another_name_is_refused_as_by_any_module():
    assert not hasattr(grouped_conv_jax, "keras")
    with pytest.raises(AttributeError) as refused:
        grouped_conv_jax.keras  # noqa: B018
    assert str(refused.value) == "module 'grouped_conv_jax' has no attribute 'keras'"
    with pytest.raises(ImportError, match="cannot import name 'keras'"):
        from grouped_conv_jax import keras  # noqa: F401


def test_the_package_with_all_its_names_imports_no_extra():
    run_python(
        """
        import sys
        from grouped_conv_jax import *
        assert linen.GroupedConv2D and "flax" in sys.modules
        extras = ("sklearn", "PIL", "matplotlib", "tqdm", "h5py", "scipy.io", "torch", "orbax")
        found = [name for name in extras if name in sys.modules]
        assert not found, found
        """
    )


def test_the_function_alone_imports_neither_flax_nor_optax():
    run_python(
        """
        import sys
        import grouped_conv_jax
        import jax.numpy as jnp
        y = grouped_conv_jax.grouped_conv2d(jnp.ones((2, 2, 1)), jnp.ones((2, 2, 1, 1, 1)))
        assert y == 4
        dir(grouped_conv_jax)
        found = [name for name in ("flax", "optax", "chex") if name in sys.modules]
        assert not found, found
        """
    )


def test_type_checkers_are_told_of_the_annotations():
    assert importlib.resources.files(grouped_conv_jax).joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", LAZY)
def test_a_submodule_is_imported_when_its_name_is_read(name):
    run_python(
        f"""
        import sys
        import grouped_conv_jax
        assert "{name}" in dir(grouped_conv_jax)
        assert "grouped_conv_jax.{name}" not in sys.modules
        assert grouped_conv_jax.{name} is sys.modules["grouped_conv_jax.{name}"]
        assert "{name}" in vars(grouped_conv_jax)
        """
    )


def test_threads_that_read_a_name_at_once_get_the_whole_module():
    # Flax does not allow several of its modules to be imported at once.
    run_python(
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        import grouped_conv_jax

        names = ["linen"] * 8
        start = threading.Barrier(len(names), timeout=60)

        def public(name):
            start.wait()
            module = getattr(grouped_conv_jax, name)
            return [getattr(module, public) for public in module.__all__]

        with ThreadPoolExecutor(len(names)) as pool:
            assert all(pool.map(public, names, timeout=60))
        """
    )
