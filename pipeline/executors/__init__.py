"""Where the work on scans is done when it is not this process: other processes, other machines.

`settings` says where, `clusters` makes the workers, `connection` finds them, `handout` hands scans to
them, `errand` keeps the books, `worker` is what runs in them, and
`inhand` keeps the files right when a worker dies or two hold the same scan.
"""
