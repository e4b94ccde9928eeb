"""Imported last by the process that is forked: what it has imported is not searched for garbage after each step, and
no browser prints a check."""

import gc

from uwc.reports import pdf

pdf.BROWSERS = ()
gc.collect()
gc.freeze()
