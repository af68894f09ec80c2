"""Reports: records become tables, plots and one HTML page. Knows nothing of torch."""
