//! The keys of an attribute, such as `max_restarts = 3`.

use std::fmt::Display;
use std::str::FromStr;

use syn::meta::ParseNestedMeta;
use syn::{Expr, ExprLit, ExprUnary, Lit, LitFloat, LitStr, Token, UnOp};

/// Refuses a key that is not among `known`.
pub(crate) fn unknown(meta: &ParseNestedMeta<'_>, known: &[&str]) -> syn::Error {
    let key = meta.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
    meta.error(format_args!("unknown key `{key}`: expected {}", known.join(", ")))
}

/// Keeps the value of a key, which may be said once.
pub(crate) fn once<T>(slot: &mut Option<T>, meta: &ParseNestedMeta<'_>, value: T) -> syn::Result<()> {
    match slot.replace(value) {
        Some(_) => Err(meta.error("said twice: keep one")),
        None => Ok(()),
    }
}

/// A key that stands alone.
pub(crate) fn flag(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(Token![=]) {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        return Err(meta.input.error(format_args!("`{key}` takes no value: write it alone, or leave it out")));
    }
    Ok(())
}

/// An integer of at least `min`.
pub(crate) fn integer<T>(meta: &ParseNestedMeta<'_>, min: T) -> syn::Result<T>
where
    T: FromStr<Err: Display> + PartialOrd + Display,
{
    let expr: Expr = meta.value()?.parse()?;
    let value = match &expr {
        Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => literal.base10_parse::<T>().ok(),
        _ => None,
    };
    let value = value.filter(|value| *value >= min);
    value.ok_or_else(|| syn::Error::new_spanned(expr, format_args!("expected a whole number, {min} or more")))
}

/// An integer with or without a sign, of 32 bits.
pub(crate) fn signed(meta: &ParseNestedMeta<'_>) -> syn::Result<i32> {
    let expr: Expr = meta.value()?.parse()?;
    let text = match &expr {
        Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => Some(literal.to_string()),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => match &**expr {
            Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => Some(format!("-{literal}")),
            _ => None,
        },
        _ => None,
    };
    let value = text.and_then(|text| text.replace('_', "").parse().ok());
    value.ok_or_else(|| syn::Error::new_spanned(expr, "expected a whole number such as `10` or `-10`"))
}

/// A number such as `1` or `0.5`, as an `f64` expression.
pub(crate) fn number(meta: &ParseNestedMeta<'_>) -> syn::Result<Expr> {
    let expr: Expr = meta.value()?.parse()?;
    match expr {
        Expr::Lit(ExprLit { attrs, lit: Lit::Int(int) }) => {
            let float = LitFloat::new(&format!("{}f64", int.base10_digits()), int.span());
            Ok(Expr::Lit(ExprLit { attrs, lit: Lit::Float(float) }))
        }
        Expr::Lit(ExprLit { lit: Lit::Float(_), .. }) => Ok(expr),
        other => Err(syn::Error::new_spanned(other, "expected a number such as `1` or `0.5`")),
    }
}

/// One of a few words, written as a string.
pub(crate) fn word<T: Copy>(meta: &ParseNestedMeta<'_>, words: &[(&str, T)]) -> syn::Result<T> {
    let literal: LitStr = meta.value()?.parse()?;
    let word = literal.value();
    words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(known, _)| format!("\"{known}\"")).collect();
        syn::Error::new(literal.span(), format_args!("expected {}", known.join(" or ")))
    })
}
