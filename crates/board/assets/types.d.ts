// What the scripts find on the page, for the check of their types; browsers never get it.
interface Window {
  /** The library of charts, in uplot.js. */
  uPlot: any;
}
