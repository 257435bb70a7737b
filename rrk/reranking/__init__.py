"""Ranking: the text a reranker sees, its scores, its training, and what can be ranked without one."""
