"""Torch modules, backbone weights and the one fit loop: tensors in, tensors out."""
