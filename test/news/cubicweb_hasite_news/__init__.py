"""News with pictures, as of its first release; `test/news_0.2.0` holds what the next changes."""
