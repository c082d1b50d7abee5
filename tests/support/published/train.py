"""A training script with the habits of published ones; written for the tests, and knowing nothing of mixsweep.

It executes a configuration file and the words of the command line, reads data and a second file relative to its
folder, loads batches in processes of its own, draws a progress bar between its lines of JSON, and keeps a folder of
checkpoints, which it looks for when it starts.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

learning_rate = 0.1
steps = 100
log_every = 10
workers = 2
seed = 0
pause = 0.0  # seconds of a step
out_dir = "out"
init_from = "scratch"
exec((HERE / "config" / "base.py").read_text())
for word in sys.argv[1:]:  # --name=value, or a file of them
    if word.startswith("--"):
        name, _, value = word[2:].partition("=")
        kind = type(globals()[name])
        globals()[name] = kind(value)
    else:
        exec(Path(word).read_text())


def load(numbers, queue, seed):
    """Batches of pairs, without end."""
    generator = random.Random(seed)
    while True:
        queue.put(generator.choices(numbers, k=16))


def newest(folder):
    found = sorted(folder.glob("step-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    return json.loads(found[-1].read_text()) if found else None


def save(folder, state):
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".new"
    beside.write_text(json.dumps(state))
    os.replace(beside, folder / f"step-{state['step']}.json")


def main():
    lines = (HERE / "data" / "pairs.csv").read_text().splitlines()[1:]
    numbers = [tuple(map(float, line.split(","))) for line in lines]
    names = json.loads((HERE / "meta.json").read_text())
    print(f"training a {names['model']} on {len(numbers)} pairs from {os.path.relpath(HERE)}")
    checkpoints = Path(out_dir) / "checkpoint"
    saved = newest(checkpoints if init_from == "scratch" else Path(init_from))
    weight, first = (saved["weight"], saved["step"] + 1) if saved else (0.0, 1)
    queue = multiprocessing.Queue(4)
    loaders = [
        multiprocessing.Process(target=load, args=(numbers, queue, seed + number), daemon=True)
        for number in range(workers)
    ]
    for loader in loaders:
        loader.start()
    generator = random.Random(seed * 1_000_003)
    batches = [generator.choices(numbers, k=16) for _ in range(steps)]  # the same after a resume
    for step in range(first, steps + 1):
        queue.get()  # a loader's batch counts as read; the order of several loaders is nobody's promise
        batch = batches[step - 1]
        slope = sum(2 * x * (weight * x - y) for x, y in batch) / len(batch)
        weight -= learning_rate * slope
        time.sleep(pause)
        print(f"\r[{'=' * (10 * step // steps):10}] {step}/{steps}", end="", flush=True)
        if step % log_every == 0:
            loss = sum((weight * x - y) ** 2 for x, y in numbers) / len(numbers)
            print(f"\n{json.dumps({'step': step, 'loss/valid': loss, 'lr': learning_rate})}", flush=True)
            save(checkpoints, {"step": step, "weight": weight})
    print("\ndone")


if __name__ == "__main__":
    main()
