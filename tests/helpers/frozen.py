"""Imported last by the process that is forked: what it has imported is not searched for garbage after each step."""

import gc

gc.collect()
gc.freeze()
