"""What `article_claims.py` is made of: data sets, runs, costs."""
