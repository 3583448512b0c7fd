"""Build script: the optional extension. Everything static is in ``setup.cfg``."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalBuild(build_ext):
    """Builds the extension where there's a C compiler, and says what is lost where there's none."""

    def build_extension(self, ext):
        """Compile it; setuptools itself passes over an optional extension that fails at linking."""
        try:
            super().build_extension(ext)
        except Exception as error:
            self.skip(error)

    def run(self):
        """Build everything; without any compiler for the platform, nothing."""
        try:
            super().run()
        except Exception as error:
            self.skip(error)

    def skip(self, error):
        """Carry on without the extension."""
        self.warn(
            f"einfx is built without its C extensions ({error}). Everything works; products over max_plus, "
            "min_plus, max_times and max_min are several times slower, unfolding is up to five times, "
            "products over log somewhat, and planning contractions of many operands several times. "
            "`python -m einfx info` tells."
        )


# Plain C, loaded with ctypes: it needs neither Python's headers nor torch's.
TROPICAL = Extension(
    "einfx.kernels._tropical",
    sources=["einfx/kernels/_tropical.c"],
    depends=[
        "einfx/kernels/_native.h",
        "einfx/kernels/_tropical.c",
        "einfx/kernels/_tropical_sets.h",
        "einfx/kernels/_tropical_tile.h",
    ],
    extra_compile_args=["-O3", "-g0", "-std=gnu11", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)

LOG = Extension(
    "einfx.kernels._log",
    sources=["einfx/kernels/_log.c", "einfx/kernels/_log_strided.c"],
    depends=[
        "einfx/kernels/_native.h",
        "einfx/kernels/_log_math.h",
        "einfx/kernels/_log.c",
        "einfx/kernels/_log_strided.c",
    ],
    # Without these two, which change no number, its loops would not become vectors.
    extra_compile_args=["-O3", "-g0", "-std=gnu11", "-fno-trapping-math", "-fno-math-errno"],
    libraries=["m"],
    optional=True,
)

WINDOWS = Extension(
    "einfx.kernels._windows",
    sources=["einfx/kernels/_windows.c", "einfx/kernels/_windows_add.c"],
    depends=["einfx/kernels/_native.h", "einfx/kernels/_windows.c", "einfx/kernels/_windows_add.c"],
    extra_compile_args=["-O3", "-g0", "-std=gnu11"],
    optional=True,
)

WALKS = Extension(
    "einfx.paths._walks",
    sources=["einfx/paths/_walks.c"],
    # Powers and sums are rounded as Python rounds them, so that searches find the same with it and without.
    extra_compile_args=["-O3", "-g0", "-std=gnu11", "-fno-builtin-pow", "-ffp-contract=off"],
    libraries=["m"],
    optional=True,
)

setup(ext_modules=[TROPICAL, LOG, WINDOWS, WALKS], cmdclass={"build_ext": OptionalBuild})
