"""Image translation, pix2pix and cycleGAN: one modality's slices are made from the other's; tensors in, tensors out."""
