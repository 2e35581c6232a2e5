"""The config that ``belay-study init`` writes."""

STARTER = """\
# A study: one question asked of one task. Check it with `belay-study run study.yaml --dry-run`.
name: my-study
task: {name: digits, label_noise: 0.2}   # `belay-study tasks`, or your own: {name: "mypackage.tasks:MyTask"}
steps: 600                               # optimizer steps of each run
seeds: 4                                 # of each setting, the same for all: settings are compared seed by seed
objective: {metric: average/val_accuracy}
space:                                   # one value, {choice: [...]}, {uniform: ...}, {log: ...}, {integers: [a, b]}
  memory: {log: [0.02, 0.5]}             # of the run; or decay, damping, coupling in place of these three
  damping_ratio: {log: [0.5, 30]}        # 1 is critical, inf EMA
  mass_ratio: {uniform: [-0.9, 6]}       # below 0 the average pushes the model, above 0 it pulls; 0 leaves it alone
  lr: {log: [0.05, 4.0]}                 # any hyperparameter of the task
search: {sampler: tpe, settings: 64}     # grid, random, qmc, tpe or gp; a quarter as many EMAs are tried too
confirm: {finalists: 4, seeds: 16}       # the best are measured once more, on seeds that took no part in choosing
"""
