"""Static pages and figures, made from the files of finished runs; imports neither torch nor the trainer."""
