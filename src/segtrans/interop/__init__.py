"""Other people's tools around models, data and runs."""
