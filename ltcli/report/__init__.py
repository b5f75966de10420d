"""Pages and figures: templates of HTML and the one chart stack, for report and plot."""
