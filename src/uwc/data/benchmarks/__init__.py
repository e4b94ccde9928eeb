"""The registry of benchmarks, which supply the questions of a study."""

from typing import Any

from uwc.data.benchmarks.described import described
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.data.benchmarks.knowundo import knowundo
from uwc.data.benchmarks.local_files import local_files
from uwc.data.benchmarks.lume import lume
from uwc.data.benchmarks.muse import muse
from uwc.data.benchmarks.pistol import pistol
from uwc.data.benchmarks.rwku import rwku
from uwc.data.benchmarks.tofu import tofu
from uwc.data.benchmarks.wmdp import wmdp
from uwc.registry import Registry

benchmarks: Registry[Any] = Registry("benchmark")
"""Functions that take keyword-only settings and return a `Benchmark`."""

benchmarks.register("fictional-authors", source="built in")(fictional_authors)
benchmarks.register("tofu", source="arXiv:2401.06121")(tofu)
benchmarks.register("muse", source="arXiv:2407.06460")(muse)
benchmarks.register("wmdp", source="arXiv:2403.03218")(wmdp)
benchmarks.register("rwku", source="arXiv:2406.10890")(rwku)
benchmarks.register("lume", source="arXiv:2502.15097")(lume)
benchmarks.register("knowundo", source="arXiv:2407.01920")(knowundo)
benchmarks.register("pistol", source="arXiv:2406.16810")(pistol)
benchmarks.register("local-files", source="your own files")(local_files)
benchmarks.register("file", source="your own files")(described)
