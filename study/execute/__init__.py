"""How it is tried: packs, the training loop, Ray Tune, Optuna's asking and telling, and the records in MLflow."""
