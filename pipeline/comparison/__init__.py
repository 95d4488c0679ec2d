"""Every baseline in every scenario, on the cached feature maps: scenarios, tasks, imputed scans, tables."""
