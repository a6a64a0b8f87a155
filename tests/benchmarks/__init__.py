"""Speed and memory, each as a ratio to a peer that is measured in the same run; see RESULTS.md."""
