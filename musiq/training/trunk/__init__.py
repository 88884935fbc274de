"""What is done to a trunk before it trains, and saved while a part of it does not."""
