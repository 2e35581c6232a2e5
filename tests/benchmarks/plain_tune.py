"""What one would write without this project: Ray Tune, Optuna and MLflow's callback, a seed of a setting a trial.

``python plain_tune.py RUNS SEEDS STEPS MOST_COUPLING``, in a folder of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from belay import Belay, Oscillator
from study.design.tasks.digits import Digits

EVALUATIONS = 5


def train(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    task = Digits(lr=config["lr"], label_noise=0.2, batch_size=32)
    model = task.build_model(config["seed"])
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    average = Belay(model, Oscillator(config["decay"], config["damping"], config["coupling"]), nonfinite="propagate")
    for step, batch in enumerate(task.batches(config["seed"], 0, config["steps"]), start=1):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        average.update()
        if step % (config["steps"] // EVALUATIONS) == 0:
            with torch.no_grad():
                measured = {f"live_{name}": value.item() for name, value in task.evaluate(model).items()}
                with average.average_parameters():
                    measured |= {f"average_{name}": value.item() for name, value in task.evaluate(model).items()}
            tune.report(measured | {"step": step})


if __name__ == "__main__":
    runs, seeds, steps = map(int, sys.argv[1:4])
    most_coupling = float(sys.argv[4])
    space = {
        "decay": tune.loguniform(0.9, 0.999),
        "damping": tune.uniform(0.1, 1.0),
        "coupling": tune.uniform(most_coupling / 30, most_coupling),
        "lr": tune.loguniform(0.03, 1.0),
        "seed": tune.randint(0, seeds),
        "steps": steps,
    }
    recorder = MLflowLoggerCallback(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db", experiment_name="plain")
    search = OptunaSearch(metric="average_val_accuracy", mode="max")
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=runs, max_concurrent_trials=os.cpu_count(), reuse_actors=True
        ),
        run_config=tune.RunConfig(name="plain", storage_path=str(Path.cwd()), callbacks=[recorder], verbose=0),
    ).fit()
