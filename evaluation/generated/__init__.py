"""Judge generated data: are they like the real ones, do they cover them, and are they copies of training patients?

Rows are scans or patients, columns features. No figure stands alone: the Fréchet distance has its null beside it, and
closeness to training patients is compared with that of real patients who took no part.
"""
