"""What every process of ours needs: logs, signals, environment, installed extras."""
