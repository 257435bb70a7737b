"""Where programs come from: the in-process sampler, remote servers, and the fine-tuning that makes a better sampler."""
