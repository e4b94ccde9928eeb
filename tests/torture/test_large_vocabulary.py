"""A vocabulary of a million entries: no step keeps float logits of whole batches."""

import subprocess
import sys

import pytest
from tests.torture.conftest import WHOLE, Tried

CODE = """
import resource
import sys
from pathlib import Path
from tests.conftest import people, tiny_model
import uwc

def model(seed):
    made = tiny_model(hidden_size=16, layers=1, seed=seed)
    made.model.resize_token_embeddings(1_000_000, mean_resizing=False)
    return made

first, forget, retain = model(0), people(6)[:6], people(6)[6:]
scores = uwc.score(first, forget, metrics=["core", "kl_to_original"], original=first, max_new_tokens=4).scores
assert all(score.n for score in scores)
attacks = ["jailbreak", "relearn"]
settings = {"jailbreak": {"kinds": ["pressure"]}, "relearn": {"steps": 2}}
uwc.attack(first, forget, attacks, attacker=uwc.Attacker(train=retain), settings=settings, max_new_tokens=4)
constant = {"sets": (), "tasks": [lambda model: 1.0], "scan": 2, "resolution": 0.5}
assert uwc.calibrate(first, model(1), forget=forget, retention=constant).calibration.alpha == 1.0
training = {"epochs": 1, "batch_size": 3, "micro_batch_size": 1, "lr": 1e-4}
uwc.unlearn(first, "npo", forget=forget, retain=retain, training=training, output_dir=Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.skipif(not WHOLE, reason="takes a minute: make torture")
def test_every_verb_takes_a_vocabulary_of_a_million_in_3_gigabytes(
    tmp_path_factory: pytest.TempPathFactory, tried: Tried
) -> None:
    tried("vocabulary of 1,000,000", 1, "scores, attacks, a calibration and a model, in 3 GB")
    command = [sys.executable, "-c", CODE, str(tmp_path_factory.mktemp("unlearned"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 3000
