"""Fit a polynomial to noisy points by gradient descent: a script with arguments, as one finds them.

It knows nothing of mixsweep. It prints a line of JSON every few steps, keeps a checkpoint, and can resume from one.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from points import noisy_points


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--degree", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--normalise", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()

    train, valid = noisy_points(args.seed)
    weights, first = np.zeros(args.degree + 1), 1
    if args.resume:
        saved = json.loads((args.resume / "state.json").read_text())
        weights, first = np.array(saved["weights"]), saved["step"] + 1
    for step in range(first, args.steps + 1):
        weights -= args.lr * gradient(weights, *train, args.normalise)
        if step % 20 == 0:
            losses = [loss(weights, *points, args.normalise) for points in (train, valid)]
            print(json.dumps({"step": step, "train_loss": losses[0], "valid_loss": losses[1]}), flush=True)
            save(args.out / "checkpoint", {"step": step, "weights": weights.tolist()})
    print("done")


def features(x: np.ndarray, degree: int, normalise: bool) -> np.ndarray:
    columns = np.stack([x**power for power in range(degree + 1)], axis=1)
    return columns / np.abs(columns).max(axis=0) if normalise else columns


def gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray, normalise: bool) -> np.ndarray:
    columns = features(x, len(weights) - 1, normalise)
    return 2 * columns.T @ (columns @ weights - y) / len(x)


def loss(weights: np.ndarray, x: np.ndarray, y: np.ndarray, normalise: bool) -> float:
    return float(np.mean((features(x, len(weights) - 1, normalise) @ weights - y) ** 2))


def save(folder: Path, state: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / "state.json.new"
    beside.write_text(json.dumps(state))
    os.replace(beside, folder / "state.json")


if __name__ == "__main__":
    main()
