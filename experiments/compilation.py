"""Where JAX keeps what it compiled, for the next start."""

import os
import pathlib

import jax


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiled, so that the next start of a like run takes seconds."""
    if jax.config.jax_compilation_cache_dir is None:  # $JAX_COMPILATION_CACHE_DIR
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxnas" / "xla"))
    # jax2onnx compiles dozens of small programs at its start, a tenth of a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
