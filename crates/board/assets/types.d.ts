// The globals of the page, for the type check of the scripts; this file is not sent to browsers.
interface Window {
  /** The chart library, in uplot.js. */
  uPlot: any;
}
