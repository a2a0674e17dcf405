/* What tables need in the browser: sorting by the number behind a text, and colours that follow the page's. */
var dagfuncs = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});

dagfuncs.oomdoctorByField = function (field) {
  return function (a, b, nodeA, nodeB) {
    const left = nodeA && nodeA.data ? nodeA.data[field] : null;
    const right = nodeB && nodeB.data ? nodeB.data[field] : null;
    if (left === right) return 0;
    if (left === null || left === undefined) return -1;
    if (right === null || right === undefined) return 1;
    return left < right ? -1 : 1;
  };
};
