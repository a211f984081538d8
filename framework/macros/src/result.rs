//! How the error of a return type written `Result` reaches its caller, as code that chooses it.

use proc_macro2::TokenStream;
use quote::quote_spanned;
use syn::Type;
use syn::spanned::Spanned;

/// In which forms the error may arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// As it is if serde can write it, else as text.
    AsItIs,
    /// As text.
    AsText,
}

/// The `Carrier` of the error of `result`.
pub(crate) fn carrier(result: &Type, carried: Carried) -> TokenStream {
    let probe = quote_spanned!(result.span()=> __mobula::Probe::<#result>);
    let travels = match carried {
        Carried::AsItIs => quote_spanned!(result.span()=> #probe::TRAVELS),
        Carried::AsText => quote_spanned!(result.span()=> false),
    };
    quote_spanned! {result.span()=>
        __mobula::Carrier<{ __mobula::how(#travels, #probe::HAS_CAUSES, #probe::IS_SHOWN) }>
    }
}
