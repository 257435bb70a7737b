"""PPO against a reranker: rollout (draw programs, score them), loss (pure tensor functions), trainer (the loop)."""
