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

/* One for all tables: each theme brings a style sheet of 70 KB along.

   Half of that is left out. For tables within tables, of which there are none here, a theme gives its 300 variables
   to what is around a table too, and finds that with ":has(> .theme)", of which any element could be the subject: at
   each change of anything the browser then finds anew the styles of all that is above it, up to the root. AG Grid
   has no setting for that. */
dagfuncs.oomdoctorTheme = (function () {
  let theme = null;
  return function (base) {
    if (theme) return theme;
    theme = base.withParams({ fontSize: 12, spacing: 5 });
    const css = theme._getParamsCss ? theme._getParamsCss() : "";
    if (theme._paramsCssCache === css && css.includes(":has(")) theme._paramsCssCache = css.slice(0, css.indexOf(":has("));
    return theme;
  };
})();
