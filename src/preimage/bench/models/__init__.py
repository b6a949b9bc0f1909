"""Whole models, ours beside installed peers: which files, what they are fed, who runs them, how they are timed and checked.

    listing     the list of packages whose model files are measured (benchmarks/models.toml), and how they are installed
    subjects    one model with what it is fed; its file as every contestant reads it
    feeds       random arrays for any model's inputs, with sizes guessed where the file leaves them open
    side        one contestant in a process (and perhaps an environment) of its own: a script that needs NumPy alone
    contest     the protocol: answers first, then bursts in turns, each after the others' workers have come to rest
    results     rows, the run as JSON, and its means
    check       does a file load, run and agree?  check_one is the process that tries one file

Commands: `preimage bench --model FILE`, `preimage bench --models LIST`, `preimage info --check FOLDER`.
"""

from preimage.bench.models.check import Verdict, check_files
from preimage.bench.models.contest import ModelProtocol, run_models
from preimage.bench.models.listing import install, listed_subjects
from preimage.bench.models.results import ModelRow, ModelRun
from preimage.bench.models.subjects import Subject, subject_of

__all__ = [
    "ModelProtocol", "ModelRow", "ModelRun", "Subject", "Verdict", "check_files", "install", "listed_subjects", "run_models", "subject_of",
]  # fmt: skip
