"""What computing on a device needs that models and preprocessing share."""
