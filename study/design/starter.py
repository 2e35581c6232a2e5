"""The config that ``belay-study init`` writes."""

STARTER = """\
# A study: one question asked of one task. Check it with `belay-study run study.yaml --dry-run`.
name: my-study
task: {name: digits, label_noise: 0.2}   # `belay-study tasks`, or your own: {name: "mypackage.tasks:MyTask"}
steps: 600                               # optimizer steps of each run
seeds: 4                                 # of each setting, the same for all: settings are compared seed by seed
objective: {metric: average/val_accuracy}
space:                                   # one value, {choice: [...]}, {uniform: ...}, {log: ...}, {integers: [a, b]}
  decay: {log_gap: [0.9, 0.9999]}        # log-uniform in 1 - decay
  damping: {uniform: [0.05, 1.0]}        # 1 is EMA
  coupling: {uniform: [0.0, 0.5]}        # 0 leaves training alone
  lr: {log: [0.05, 4.0]}                 # any hyperparameter of the task
search: {sampler: tpe, settings: 64}     # grid, random, qmc, tpe or gp; a quarter as many EMAs are tried too
"""
