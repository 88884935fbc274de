"""Files of rows: CSV, TSV, JSON Lines, Parquet and the classic text, which outlive being killed."""
