"""Uses of the joint model: patients that never were, with features, images and labels that belong together."""
