"""Executors of the per-scan work: this process, Dask workers, or Slurm jobs.

`registry` names the executors, `config` has their settings, and `opened` creates the configured one. `local`,
`dask` and `slurm` are the executors. The last two share `dispatch` (send scans to workers), `connection` (reach the
workers), `pending` (keep track of scans) and `worker` (what runs in a worker).
"""
