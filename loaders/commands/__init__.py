"""What `sllm ckpt` runs, found by the entry points `sllm.checkpoints`: the command line itself never imports torch."""
