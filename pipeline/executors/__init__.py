"""Where the work on scans is done: in this process, in Dask workers, or in Slurm jobs.

`registry` names the executors, `config` has their settings, and `opened` makes the one that the settings name. `local`,
`dask` and `slurm` are the executors. The last two share `dispatch` (send scans to workers), `connection` (reach the
workers), `pending` (keep track of scans) and `worker` (what runs in a worker).
"""
