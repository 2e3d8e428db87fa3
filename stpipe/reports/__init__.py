"""The evaluation report: one HTML page and one JSON file, made from nothing but the files of a run directory."""
