"""A training step (forward, backward, update) of five nets, ours beside torch: same weights, same losses first, then interleaved.

    python benchmarks/training_step.py [NET ...] [--threads 1] [--rounds 7] [--batch 32] [--no-compile] [--profile]
    python benchmarks/training_step.py [NET ...] --memory [--batch 32]

NET: lenet, autoencoder, unet, dcgan, resnet18 (benchmarks/training_nets.py); all by default. Ours is a step of learning.Trainer (DCGAN: a loop as
torch's, of two learning.Recorded nets). torch runs in both layouts, and through torch.compile where it finds a C++ compiler (a try of its own may
take three minutes for each layout; then the row says so and goes on without); its best is compared. --memory: the most memory that a process takes
for five steps beyond what it had before the net was made, in processes of their own. One thread is timed by the thread's CPU time,
so that other processes do not show; more by the clock. --profile sorts our functions by the time spent in them, kernels apart from Python.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from contestants import clock_of, interleaved, median_ms, once, ratios, set_threads
from training_nets import OURS, SETUPS, Setup, data_of, torch_names

import preimage as pre

Step = Callable[[], float]
#: Seconds in which torch.compile has to have run a step.
COMPILE_S = 180


def _step(nets: Any, optimisers: Any, losses: Any, x: Any, t: Any) -> Step:
    """One step of one net, or of a generator and its critic. losses: the mean square or cross entropy, and the critic's."""
    loss_of, critic_loss = losses
    if len(nets) == 1:
        (net,), (optimiser,) = nets, optimisers

        def one() -> float:
            optimiser.zero_grad()
            loss = loss_of(net(x), t)
            loss.backward()
            optimiser.step()
            return float(loss.item())

        return one
    net, judge = nets

    def two() -> float:
        made = net(t)
        loss = critic_loss(judge(x), 1.0) + critic_loss(judge(made.detach()), 0.0)
        optimisers[1].zero_grad()
        loss.backward()
        optimisers[1].step()
        fooled = critic_loss(judge(made), 1.0)
        optimisers[0].zero_grad()
        fooled.backward()
        optimisers[0].step()
        return float(loss.item()) + float(fooled.item())

    return two


def ours(setup: Setup, batch: int) -> tuple[Step, Any]:
    """Our step (a Trainer's, where one net is trained), and the nets, from whose weights torch's begin."""
    x, t = data_of(setup, batch)
    nets = [make(OURS) for make in setup.nets]
    kind = (
        (lambda p: pre.optim.SGD(p, lr=0.01, momentum=0.9))
        if setup.optimiser == "sgd"
        else (lambda p: pre.optim.Adam(p, lr=2e-4))
    )
    loss = pre.nn.mse_loss if setup.target else pre.nn.cross_entropy
    critic_loss = lambda y, value: pre.nn.bce_with_logits_loss(y, np.full(y.shape, value, np.float32))  # noqa: E731
    optimisers = [kind(net.parameters()) for net in nets]
    if len(nets) == 1:
        trainer = pre.learning.Trainer(nets[0], loss, optimisers[0])
        trainer.uses([(x, t)])
        step: Step = lambda: trainer.advance()["loss"]  # noqa: E731
    else:
        step = _step([pre.learning.Recorded(net) for net in nets], optimisers, (loss, critic_loss), x, t)
    return step, [{k: np.array(v) for k, v in net.state_dict().items()} for net in nets]


def theirs(setup: Setup, batch: int, states: Any, *, last: bool, compiled: bool) -> Step:
    """torch's step. last: in its channels-last layout; compiled: through torch.compile."""
    x, t = (torch.from_numpy(a) for a in data_of(setup, batch))
    nets = [make(torch_names()) for make in setup.nets]
    for net, state in zip(nets, states or [], strict=states is not None):
        net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    if last:
        nets = [net.to(memory_format=torch.channels_last) for net in nets]
        x = x.to(memory_format=torch.channels_last)
    kind: Any = (
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))
        if setup.optimiser == "sgd"
        else (lambda p: torch.optim.Adam(p, lr=2e-4))
    )
    optimisers = [kind(net.parameters()) for net in nets]
    if compiled:
        nets = [torch.compile(net) for net in nets]
    f = torch.nn.functional
    loss = f.mse_loss if setup.target else f.cross_entropy
    critic_loss = lambda y, value: f.binary_cross_entropy_with_logits(y, torch.full_like(y, value))  # noqa: E731
    return _step(nets, optimisers, (loss, critic_loss), x, t)


def _first_losses(step: Step, seconds: int) -> list[float]:
    """The losses of five steps: from the fourth on, ours is recorded. Raises: TimeoutError where they take so many seconds (0: however many)."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"no step within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return [step() for _ in range(5)]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(name: str, batch: int, threads: int, rounds: int, compiled: bool) -> tuple[float, Step]:
    """Prints a row; gives torch's best / ours, and our step."""
    setup = SETUPS[name]
    own, states = ours(setup, batch)
    steps, first = {"ours": own}, {"ours": _first_losses(own, 0)}
    for last in (False, True):
        for by_compiler in (False, True) if compiled else (False,):
            label = f"torch {'channels_last' if last else 'channels_first'}{' compiled' if by_compiler else ''}"
            step = theirs(setup, batch, states, last=last, compiled=by_compiler)
            try:
                first[label] = _first_losses(step, COMPILE_S if by_compiler else 0)
            except Exception as error:
                if not by_compiler:
                    raise
                print(
                    f"{name:12} {label} left out: {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}", flush=True
                )
            else:
                steps[label] = step
    for label, losses in first.items():
        # rounding grows from step to step where a net learns its one batch by heart
        same = np.allclose(losses[:3], first["ours"][:3], rtol=5e-3) and np.allclose(losses, first["ours"], rtol=2e-2)
        assert same, f"{name}: the losses differ: {label} {losses}, ours {first['ours']}"
    turns = {label: once(step, clock_of(cpu=threads == 1), warm=False) for label, step in steps.items()}
    times = interleaved(turns, rounds=rounds, threads=threads)
    medians = {label: median_ms(taken) for label, taken in times.items()}
    best = min((label for label in steps if label != "ours"), key=medians.__getitem__)
    ratio = median(ratios(times, best, "ours"))
    print(f"{name:12} ours {medians['ours']:8.2f} ms, {best} {medians[best]:8.2f} ms: torch / ours {ratio:.2f}", flush=True)
    return ratio, own


def _most_memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory_of(name: str, batch: int, library: str) -> None:
    """Prints what three steps take."""
    setup = SETUPS[name]
    before = _most_memory()
    if library == "ours":
        step = ours(setup, batch)[0]
    else:
        step = theirs(setup, batch, None, last=library == "channels_last", compiled=False)
    for _ in range(5):
        step()
    print(_most_memory() - before)


def compare_memory(names: list[str], batch: int, threads: int) -> None:
    """A row for each net: ours, and torch's better layout."""
    for name in names:
        found = {}
        for library in ("ours", "channels_first", "channels_last"):
            command = [sys.executable, __file__, name, "--batch", str(batch), "--threads", str(threads), "--memory-of", library]
            found[library] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        least = min(found["channels_first"], found["channels_last"])
        print(
            f"{name:12} ours {found['ours'] / 2**20:8.1f} MiB, torch {least / 2**20:8.1f} MiB: torch / ours {least / found['ours']:.2f}",
            flush=True,
        )


def _profile(step: Step, threads: int) -> None:
    profile = cProfile.Profile(time.thread_time if threads == 1 else time.perf_counter)
    with profile:
        for _ in range(5):
            step()
    pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NET", choices=[*SETUPS, []])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", choices=["ours", "channels_first", "channels_last"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_threads(options.threads)
    if options.memory:
        compare_memory(options.nets or list(SETUPS), options.batch, options.threads)
        return
    if options.memory_of:
        with pre.config(threads=options.threads):
            _memory_of(options.nets[0], options.batch, options.memory_of)
        return
    compiled = not options.no_compile and any(map(shutil.which, ("g++", "clang++", "c++")))
    if not compiled and not options.no_compile:
        print("no C++ compiler here: torch.compile is left out", flush=True)
    ratios = []
    with pre.config(threads=options.threads):
        for name in options.nets or SETUPS:
            ratio, step = measure(name, options.batch, options.threads, options.rounds, compiled)
            ratios.append(ratio)
            if options.profile:
                _profile(step, options.threads)
    print(
        f"geometric mean of torch's best / ours: {np.exp(np.mean(np.log(ratios))):.2f}; batch {options.batch}, {options.threads} threads"
    )


if __name__ == "__main__":
    main()
